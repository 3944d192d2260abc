"""Requests to an app in this very thread, as a server would send them."""

import asyncio
import json


def get(app, path, query, method="GET", headers=None, body=b""):
    """Status and JSON of the answer, asked as a server would ask."""
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": raw}
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))
