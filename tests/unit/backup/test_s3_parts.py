"""What the S3 store makes of a library's messages, and which unfinished uploads it takes for leftovers."""

from datetime import UTC, datetime, timedelta

import pytest

from kops_py.backup.s3 import Credentials, S3Store, _words, virtual_endpoint
from kops_py.backup.s3_uploads import Uploads
from kops_py.model.backup import S3StoreSpec
from kops_py.model.errors import StoreError

SPEC = S3StoreSpec("offsite", "backups", prefix="k8s", endpoint="https://s3.example.com", region="eu-1")
KEYS = Credentials("an-access-key", "a-secret-key", "a-token")


def listing(*uploads: tuple[str, str, datetime]) -> bytes:
    body = "".join(
        f"<Upload><Key>{key}</Key><UploadId>{one}</UploadId><Initiated>{at:%Y-%m-%dT%H:%M:%S.000Z}</Initiated></Upload>"
        for key, one, at in uploads
    )
    return f'<R xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{body}</R>'.encode()


class Recorded(Uploads):
    """Answers from a list, and notes what was asked."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(SPEC, KEYS, 1)
        self.answer = answer
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    def _ask(self, method: str, path: str, query: dict[str, str]) -> bytes:
        self.asked.append((method, path, query))
        return self.answer if method == "GET" else b""


def test_only_old_uploads_below_our_prefix_are_aborted() -> None:
    now = datetime.now(UTC)
    uploads = Recorded(
        listing(
            ("k8s/prod/a/part", "1", now - timedelta(hours=7)),
            ("k8s/prod/b/part", "2", now - timedelta(hours=5)),
            ("k8s/production/c/part", "3", now - timedelta(hours=7)),
            ("other", "4", now - timedelta(hours=7)),
        )
    )
    assert uploads.abort("prod", older_than_s=6 * 3600) == ("k8s/prod/a/part",)
    assert uploads.asked == [
        ("GET", "", {"uploads": "", "prefix": "k8s/prod/"}),
        ("DELETE", "/k8s/prod/a/part", {"uploadId": "1"}),
    ]


def test_a_young_upload_is_aborted_when_its_writer_is_known_to_be_gone() -> None:
    now = datetime.now(UTC)
    uploads = Recorded(listing(("k8s/prod/a/part", "1", now), ("k8s/prod/b/part", "2", now), ("k8s/x/c", "3", now)))
    asked: list[str] = []

    def is_over(path: str) -> bool:
        asked.append(path)
        return path == "prod/b/part"

    assert uploads.abort("prod", older_than_s=6 * 3600, is_over=is_over) == ("k8s/prod/b/part",)
    assert asked == ["prod/a/part", "prod/b/part"]  # as the catalogue calls them
    assert uploads.asked[1:] == [("DELETE", "/k8s/prod/b/part", {"uploadId": "2"})]


@pytest.mark.parametrize("answer", [b"", b"<a", b"<R><Upload><Key>k8s/prod/x</Key></Upload></R>"])
def test_an_answer_that_is_no_list(answer: bytes) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        Recorded(answer).abort("prod", older_than_s=0)


def test_a_signature_is_that_of_the_published_example() -> None:
    """AWS, Authenticating Requests (Signature Version 4), Examples: GET Object listing of a bucket's lifecycle."""
    spec = S3StoreSpec("x", "examplebucket", endpoint="https://s3.amazonaws.com", path_style=False)
    keys = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    at = datetime(2013, 5, 24, tzinfo=UTC)
    headers = Uploads(spec, keys, 1)._signed("GET", "examplebucket.s3.amazonaws.com", "/", "lifecycle=", at)
    assert headers["authorization"].endswith(
        "Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    )


def test_no_secret_is_ever_shown() -> None:
    assert "a-secret-key" not in repr(KEYS)
    assert "a-token" not in repr(KEYS)
    signed = Recorded(b"")._signed("GET", "h", "/", "", datetime(2026, 1, 1, tzinfo=UTC))
    assert "a-secret-key" not in str(signed)


def test_messages_are_cut_to_their_cause() -> None:
    text = (
        "Error performing PUT https://s3/backups/x in 4 ms - Server returned non-2xx status code: 403 Forbidden: "
        "<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>No.</Message></Error>\n\nDebug source: ..."
    )
    assert _words(ValueError(text)) == "AccessDenied: No."
    assert _words(ValueError("status code: 503 Slow Down: x")) == "the server answered 503 Slow Down"
    gone = "Generic S3 error: Error performing PUT http://127.0.0.1:9/b/k?uploadId=x in 1.2s, after 4 retries, "
    gone += "max_retries: 4, retry_timeout: 5s  - HTTP error: error sending request\n\nDebug source:\nx"
    assert _words(ValueError(gone)) == "Generic S3 error: HTTP error: error sending request"
    assert _words(ValueError("")) == "ValueError"


def test_addresses() -> None:
    assert virtual_endpoint(SPEC) == "https://backups.s3.example.com"
    assert virtual_endpoint(S3StoreSpec("x", "b", region="eu-1")) == "https://b.s3.eu-1.amazonaws.com"
    store = S3Store(SPEC, None)
    assert store.where == "offsite (s3://backups/k8s)"
    assert store.clean("prod", older_than_s=0) == ()
