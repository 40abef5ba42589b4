"""Visitors who keep their connection and come back now and then. Counts requests that got no answer because the connection was
closed under them; one that was closed before is opened anew, as browsers do. usage: idle.py HOST PORT VISITORS SECONDS"""
import asyncio, random, ssl, sys, time

host, port, visitors, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
counts = {"requests": 0, "lost": 0, "reopened": 0, "refused": 0}


async def visitor(number, end):
    random.seed(number)
    reader = writer = None
    while time.monotonic() < end:
        await asyncio.sleep(random.uniform(0.05, 0.5))
        if writer is not None and reader.at_eof():
            counts["reopened"] += 1
            writer = None
        if writer is None:
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
        counts["requests"] += 1
        try:
            writer.write(f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            await writer.drain()
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            length = int(next(line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")))
            await asyncio.wait_for(reader.readexactly(length), 30)
            if b" 200 " not in head.split(b"\r\n")[0]:
                counts["refused"] += 1
            # nginx announces it where it can.
            if b"\r\nconnection: close" in head.lower():
                counts["reopened"] += 1
                writer = None
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            counts["lost"] += 1
            writer = None


async def main():
    end = time.monotonic() + seconds
    await asyncio.gather(*(visitor(number, end) for number in range(visitors)))
    print(" ".join(f"{key} {value}" for key, value in counts.items()))


asyncio.run(main())
