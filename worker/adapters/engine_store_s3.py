"""Published engines as objects prefix/id/file of one bucket. Needs the extra `s3`."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Final

from engines.catalogue import EngineFiles
from engines.errors import EngineRefused, RefusalCode
from engines.store import GOLDEN, MANIFEST, MODEL, checked_id, engine_id
from worker.adapters.image_s3 import S3Options, answer_or_none, s3_client
from worker.errors import ServiceUnavailable

SERVICE: Final = "the engine registry's bucket"
READ_TIMEOUT_S: Final = 60.0  # of a wait for the next bytes; engines are larger than photographs


class S3Store:
    """Implements engines.store.EngineStore. S3 renames nothing: the manifest is put last, and the index names an engine
    only after that, so that what a crash leaves half-written is never asked for."""

    def __init__(self, bucket: str, prefix: str, *, options: S3Options) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client = s3_client(options)

    def put(self, files: EngineFiles) -> str:
        """Keep an engine. Putting it again writes the same bytes. Raises ServiceUnavailable."""
        name = engine_id(files)
        for part, data in ((MODEL, files.model), (GOLDEN, files.golden), (MANIFEST, files.manifest)):
            self._call("put_object", Key=self._key(name, part), Body=data)
        return name

    def get(self, engine_id: str) -> EngineFiles:
        """Each object read once. Raises EngineRefused (model_missing) and ServiceUnavailable."""
        manifest, model, golden = (self._read(self._key(engine_id, part)) for part in (MANIFEST, MODEL, GOLDEN))
        return EngineFiles(manifest=manifest, model=model, golden=golden)

    def close(self) -> None:
        self._client.close()

    def _key(self, name: str, part: str) -> str:
        return f"{self._prefix}{checked_id(name)}/{part}"

    def _read(self, key: str) -> bytes:
        answer = self._call("get_object", Key=key)
        if answer is None:
            fix = "publish the engine again, or restore the bucket from a copy"
            raise EngineRefused(RefusalCode.MODEL_MISSING, f"s3://{self._bucket}/{key} is not there", fix)
        try:
            with closing(answer["Body"]) as stream:
                return bytes(stream.read())
        except Exception as error:  # botocore's transport errors have no common root
            raise ServiceUnavailable(SERVICE, type(error).__name__) from error

    def _call(self, operation: str, **arguments: Any) -> Any:
        """The client's answer, None where the object is absent."""
        return answer_or_none(self._client, operation, SERVICE, Bucket=self._bucket, **arguments)
