"""A TCP proxy that is a slow link: python3 link.py ADDRESS TARGET SECONDS BYTES. It prints its port.

What comes back to a client waits SECONDS, and all of an address's connections share BYTES a second: every machine has a
network card of its own. It counts on clients that have one request at a time on a connection, as HTTP/1.1's have."""

import asyncio
import sys
import time

# When the link to an address is free again.
free = {}


async def copy(reader, writer, delay, share):
    fresh = True
    while data := await reader.read(1 << 14):
        if fresh and delay:
            await asyncio.sleep(delay)
        if share:
            peer, rate = share
            free[peer] = max(time.monotonic(), free.get(peer, 0)) + len(data) / rate
            await asyncio.sleep(free[peer] - time.monotonic())
        writer.write(data)
        await writer.drain()
        # The first bytes of an answer wait; what follows at once belongs to it.
        fresh = len(data) < 1 << 14
    writer.close()


async def main(address, target, delay, rate):
    host, port = target.rsplit(":", 1)

    async def serve(reader, writer):
        there, back = await asyncio.open_connection(host, int(port))
        peer = writer.get_extra_info("peername")[0]
        await asyncio.gather(copy(reader, back, 0, None), copy(there, writer, delay, (peer, rate)), return_exceptions=True)

    server = await asyncio.start_server(serve, address, 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
