"""An S3 service for the contract tests: moto's server on loopback, as the devstack has none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

BUCKETS = ("goods", "kept", "unlisted")


@pytest.fixture(scope="session")
def s3_service() -> Iterator[str]:
    from moto.server import ThreadedMotoServer  # here, since a GPU host runs tests of this folder without it

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_endpoint(s3_service: str) -> str:
    """The endpoint of a service whose buckets are there and empty."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=s3_service,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - moto takes any
    )
    for bucket in BUCKETS:
        client.create_bucket(Bucket=bucket)
        for item in client.list_objects_v2(Bucket=bucket).get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=item["Key"])
    client.close()
    return s3_service
