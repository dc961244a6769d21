"""A web application over what etl has loaded: three routes, answered from the caches of etl.read.

    pip install hero-etl fastapi uvicorn
    DATABASE_URL=postgresql://app@db/game REDIS_URL=redis://cache uvicorn --app-dir docs web_reader:app --workers 4

Every answer carries the generation as its ETag, and browsers are told to ask again before they use it. Then one short
request with If-None-Match is answered by 304 from memory, and the data is sent again only after a publication or update.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response

from etl import EtlError
from etl.read import PowerReader


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make one reader for the process; DATABASE_URL and REDIS_URL name what it reads."""
    with PowerReader() as app.state.reader:
        yield


app = FastAPI(title="Powers", lifespan=lifespan)


def reader_of(request: Request) -> PowerReader:
    """Return the reader of this process; routes are plain functions, so that it may wait for the database."""
    reader: PowerReader = request.app.state.reader
    return reader


Reader = Annotated[PowerReader, Depends(reader_of)]


def unless_known(request: Request, reader: Reader) -> dict[str, str]:
    """Answer 304 where the browser has this generation already; else return the headers that let it ask so next time.

    The generation is asked for before the data: data that is newer than its ETag is only fetched once too often.
    """
    headers = {"ETag": reader.generation().etag, "Cache-Control": "no-cache"}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if headers["ETag"] in known:
        raise HTTPException(304, headers=headers)
    return headers


Headers = Annotated[dict[str, str], Depends(unless_known)]


@app.get("/powers/{internal_name}")
def power(internal_name: str, reader: Reader, headers: Headers) -> Response:
    """One power by its full name, in any case."""
    return told(reader.power_by_name(internal_name), headers)


@app.get("/powersets/{full_name}/powers")
def powers(full_name: str, reader: Reader, headers: Headers, max_level: int | None = None) -> Response:
    """The powers of a set, up to a level."""
    return told(reader.powers(full_name, max_level), headers)


@app.get("/search")
def search(q: Annotated[str, Query(min_length=2)], reader: Reader, headers: Headers, limit: int = 20) -> Response:
    """Powers whose name holds a text."""
    return told(reader.search(q, limit=min(limit, 100)), headers)


@app.exception_handler(EtlError)
def unavailable(_: Request, error: EtlError) -> Response:
    """The database cannot tell what is published: better no answer than a stale one."""
    return Response(msgspec.json.encode({"detail": error.message}), 503, media_type="application/json")


def told(answer: object, headers: dict[str, str]) -> Response:
    """Return an answer as JSON; None is 404. The structs of etl.read encode as they are."""
    if answer is None:
        raise HTTPException(404, "there is no such thing", headers=headers)
    return Response(msgspec.json.encode(answer), media_type="application/json", headers=headers)
