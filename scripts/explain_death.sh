#!/usr/bin/env bash
# What `make test` says where a signal ended pytest; ends with the status that it is given.
set -euo pipefail

status=$1
if ((status > 128)); then
  cat >&2 <<END

pytest was ended by signal $((status - 128)) ($(kill -l $((status - 128)) 2>/dev/null || true)) in the test named last.
If no Python traceback stands above, the thread that died was one of librdkafka's: they block every signal, so the
system ends the process before faulthandler can speak. A consumer or producer that a test left open is the first
suspect. To see where: gdb -batch -ex run -ex 'thread apply all bt 20' --args .venv/bin/python -m pytest TESTS
END
fi
exit "$status"
