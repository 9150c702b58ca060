"""A row's pictures, however it names them, kept in the folder of a run: a path, a URL, bytes, or a hub's image."""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from didact.errors import UsageError
from didact.instance import PICTURES
from didact.pictures import DROP, MOST_BYTES, check, decoded, is_url, keep

REMEMBERED = 100_000  # names of files whose pictures were kept: rows often share one
SECONDS = 60  # for a URL


@dataclass(frozen=True)
class Album:
    """Where the pictures of a source are looked for, and the folder that has them in its `pictures/`.

    root: what a path must lie in; None where nobody else wrote it. urls: whether http and https are fetched.
    """

    home: Path
    root: Path | None = None
    urls: bool = False
    known: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def keep(self, value: Any, column: str) -> str:
        """Keep a picture; gives its place in `home`. Raises UsageError with `field` set to the column."""
        if isinstance(value, str) and value in self.known:
            return self.known[value]
        try:
            checked = check(self._raw(value), root=self.root)
        except UsageError as error:
            raise error.at(field=column) from error
        keep(checked, self.home / PICTURES)
        name = f"{PICTURES}/{checked.name}"
        if isinstance(value, str) and len(self.known) < REMEMBERED and not value.startswith("data:"):
            self.known[value] = name
        return name

    def _raw(self, value: Any) -> bytes | str:
        if isinstance(value, Mapping):
            found = (value.get(key) for key in ("bytes", "path", "url"))
            value = next((each for each in found if each), None)
        if hasattr(value, "save"):  # as the datasets library decodes it
            out = io.BytesIO()
            value.save(out, "PNG")
            return out.getvalue()
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if not isinstance(value, str):
            problem = f"the picture is {type(value).__name__}, not a path, bytes or a URL"
            raise UsageError(problem.replace("NoneType", "nothing"), f"name its file, {DROP}")
        if value.startswith("data:"):
            return decoded(value)
        return fetched(value) if self.urls and is_url(value) else value


def fetched(url: str) -> bytes:
    """What a URL gives, if it is http or https and not too large; UsageError if it gives nothing."""
    from urllib.error import URLError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    if not url.startswith(("http://", "https://")):
        raise UsageError(f'the picture "{url[:80]}" is no http or https URL', f"name its file, {DROP}")

    class Same(HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if not newurl.startswith(("http://", "https://")):
                raise URLError(f"it leads to {newurl[:80]}")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    try:
        asked = Request(url, headers={"User-Agent": "didact"})  # noqa: S310 - the scheme is looked at above
        with build_opener(Same()).open(asked, timeout=SECONDS) as answer:
            held: bytes = answer.read(MOST_BYTES + 1)
    except (URLError, OSError, ValueError) as error:
        told = str(getattr(error, "reason", None) or error)
        raise UsageError(f'the picture "{url[:80]}" cannot be fetched: {told}', f"fetch it once, {DROP}") from error
    if len(held) > MOST_BYTES:
        raise UsageError(f'the picture "{url[:80]}" has more than {MOST_BYTES >> 20} MiB', f"make it smaller, {DROP}")
    return held


@cache
def scratch() -> Path:
    """A folder for pictures that are only looked at; it goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="didact-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
