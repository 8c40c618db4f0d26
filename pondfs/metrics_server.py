"""A mount's metrics over HTTP, for Prometheus; on this machine only. ``-o metrics=127.0.0.1:9742``.

The server is the client library's, in threads of its own; each request asks the trio thread for a
copy of the figures, as opening ``.pond/metrics`` does.
"""

import logging

import trio

from pondfs.metrics import Metrics, State, registry_of

log = logging.getLogger("pondfs.metrics")


async def serve_metrics(metrics: Metrics, host: str, port: int) -> None:
    """Answer at http://HOST:PORT/metrics until cancelled.

    An address that somebody else has is no reason not to serve the mount: the log tells.
    """
    from prometheus_client import start_wsgi_server

    token = trio.lowlevel.current_trio_token()

    def ask() -> State:
        return trio.from_thread.run(metrics.state, trio_token=token)

    try:
        server, _ = start_wsgi_server(port, addr=host, registry=registry_of(ask))
    except OSError as error:
        log.error("no metrics at %s:%d: %s", host, port, error.strerror)
        return
    log.info("metrics at http://%s:%d/metrics", host, server.server_port)
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(server.shutdown)
        server.server_close()
