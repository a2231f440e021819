"""Audio behind a URL, fetched by fsspec where that was allowed."""

from __future__ import annotations

from typing import Any, NamedTuple

from astfast.errors import AudioError


class Remote(NamedTuple):
    """A URL whose content is fetched when it is decoded, and at most ``limit`` bytes of it."""

    url: str
    limit: int

    def fetch(self) -> bytes:
        """The content. Raises AudioError for what can't be fetched or is larger than the limit."""
        fsspec = _fsspec(self.url)
        try:
            with fsspec.open(self.url, "rb") as file:
                content: bytes = file.read(self.limit + 1)
        except Exception as error:  # each file system has its own exceptions
            raise AudioError(
                f"{self.url}: can't be fetched ({type(error).__name__}: {error})", kind="unreadable"
            ) from error
        if len(content) > self.limit:
            raise AudioError(
                f"{self.url}: more than {self.limit / 1e6:g} MB: raise the limit of urls=, or download it",
                kind="unsupported",
            )
        return content


def _fsspec(url: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise AudioError(
            f"{url}: URLs need the package fsspec ({error}): pip install 'astfast[remote]'", kind="unsupported"
        ) from error
    return fsspec
