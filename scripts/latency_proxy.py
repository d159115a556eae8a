"""A TCP proxy that holds every answer back: python3 latency_proxy.py ADDRESS TARGET SECONDS. It prints its port.

Each connection carries one request at a time, as HTTP/1.1 clients use them, so a delay of what comes back is a delay of the
answer, and as many answers as there are connections wait at once."""

import asyncio
import sys


async def copy(reader, writer, delay):
    idle = True
    while data := await reader.read(1 << 16):
        # The first bytes of an answer wait; what follows at once belongs to it.
        if delay and idle:
            await asyncio.sleep(delay)
        writer.write(data)
        await writer.drain()
        idle = len(data) < 1 << 16
    writer.close()


async def main(address, target, delay):
    host, port = target.rsplit(":", 1)

    async def serve(reader, writer):
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, back, 0), copy(there, writer, delay), return_exceptions=True)

    server = await asyncio.start_server(serve, address, 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
