"""A proxy of the usual shape in Python: FastAPI in front, httpx behind, one token."""

import os
import socket
import ssl
import sys

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

STRIPPED = {
    "authorization", "connection", "content-length", "cookie", "forwarded", "host", "keep-alive",
    "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "x-proxy-api-key",
    "x-real-ip",
}
HOP_BY_HOP = {"connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding"}

app = FastAPI()
trusted = ssl.create_default_context(cafile=os.environ.get("TRUSTED_CA"))
client = httpx.AsyncClient(base_url=sys.argv[1], timeout=None, verify=trusted)
token = os.environ["TOKEN"]


@app.api_route("/{path:path}", methods=["GET", "POST"])
async def forward(path: str, request: Request) -> Response:
    headers = {k: v for k, v in request.headers.items() if k not in STRIPPED}
    headers["authorization"] = f"Bearer {token}"
    answer = await client.request(
        request.method, f"/{path}", headers=headers, content=await request.body()
    )
    passed = {k: v for k, v in answer.headers.items() if k not in HOP_BY_HOP}
    return Response(answer.content, status_code=answer.status_code, headers=passed)


# The protocol is named, since asyncio sets TCP_NODELAY only where it is.
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
config = uvicorn.Config(app, log_level="warning", access_log=False)
uvicorn.Server(config).run(sockets=[listener])
