"""aiosmtplib with EmailMessage: as many clients as connections, on one loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiosmtplib
from drive import Job, Row
from peers.stdlib import message


async def _client(job: Job, left: Iterator[Row], attachment: bytes) -> int:
    count = 0
    async with aiosmtplib.SMTP(
        hostname="127.0.0.1", port=job.port, start_tls=False, local_hostname="localhost"
    ) as client:
        for row in left:
            await client.send_message(message(row, attachment))
            count += 1
    return count


async def _clients(job: Job, rows: list[Row]) -> int:
    left, attachment = iter(rows), job.attached()
    return sum(await asyncio.gather(*(_client(job, left, attachment) for _ in range(job.workers))))


def send(job: Job, rows: list[Row]) -> int:
    """Send *rows*; an error ends it."""
    return asyncio.run(_clients(job, rows))
