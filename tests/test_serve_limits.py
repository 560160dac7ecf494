"""The limits of a service, as numbers."""

from __future__ import annotations

import pytest

from headstart.errors import ParameterError
from headstart.settings.serving import Limits, read_bytes


def test_sizes_are_read_as_people_write_them() -> None:
    said = [read_bytes(text) for text in ("512", "10MB", "10 mb", "1.5KB", "2MiB", "1G", "3k")]
    assert said == [512, 10_000_000, 10_000_000, 1500, 2 << 20, 10**9, 3000]


@pytest.mark.parametrize("text", ["", "MB", "ten", "-1MB", "10TB", "1e3", "10i"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="Write it as 10MB"):
        read_bytes(text)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"body": 0}, "body must be a whole number of at least 1, got 0"),
        ({"body_seconds": float("nan")}, "body_seconds must be a number above 0, got nan"),
        ({"images": 300}, "'images' .300. must not be above 'waiting_per_client' .128."),
        ({"connections": 5}, "must not be above 'connections' .5."),
    ],
)
def test_limits_that_make_no_sense_are_refused(values: dict[str, float], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        Limits(**values)


def test_a_million_empty_images_are_refused_before_anything_is_made_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="needs headstart[serve]")
    from headstart.serve import image_intake
    from headstart.serve.refusals import Refusal

    made: list[object] = []
    monkeypatch.setattr(image_intake, "_read_entry", made.append)
    with pytest.raises(Refusal, match="Send them in several"):
        image_intake.ImageIntake()._read_json(b'{"images":[' + b'"",' * 100_000 + b'""]}', Limits(images=8))
    assert made == []
