"""The TLS settings of all connections to providers: made once, when first needed, in a thread."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path


def trusting_the_system() -> ssl.SSLContext:
    """Checks certificates against the system's roots; against certifi's where the system has none.

    TLS 1.2 at least. Takes some 20 ms.
    """
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"] and not _roots_in_folder():
        import certifi  # rarely needed, never at start

        context.load_verify_locations(certifi.where())
    return hardened(context)


def hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same context with what every connection insists on."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = True
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    return context


def _roots_in_folder() -> bool:
    """OpenSSL reads a folder of roots only while it verifies, so the store looks empty until then."""
    folder = ssl.get_default_verify_paths().capath
    return bool(folder) and any(Path(folder).glob("*.0"))


class Tls:
    """One context for all who ask, made by the first.

    State: the thread's work, once somebody has asked.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext] = trusting_the_system) -> None:
        self._make = make
        self._made: asyncio.Future[ssl.SSLContext] | None = None

    async def context(self) -> ssl.SSLContext:
        """The context. Raises OSError when the roots can't be read; the next one to ask tries again."""
        made = self._made
        if made is None or (made.done() and (made.cancelled() or made.exception() is not None)):
            made = self._made = asyncio.get_running_loop().run_in_executor(None, self._make)
        return await asyncio.shield(made)  # who leaves does not take it from the others
