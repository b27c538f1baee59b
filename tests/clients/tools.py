"""The official MCP SDK against `edgewise`, with the real model: `tools.py URL COLLECTION COMMAND...`.

Over streamable HTTP at URL/mcp, and over standard input and output of COMMAND. The collection holds a document that says
that the harbour was founded in 1742. Ends with status 0 and the last line `passed N checks` if everything holds.
"""

import asyncio
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

try:
    from mcp.client.streamable_http import streamable_http_client
except ImportError:
    from mcp.client.streamable_http import streamablehttp_client as streamable_http_client

url, collection, command = sys.argv[1], sys.argv[2], sys.argv[3:]
checks = 0


def check(holds, *about):
    global checks
    assert holds, about
    checks += 1


def field(result, *names):
    """A field of a result, whose name differs between versions of the SDK."""
    return next(getattr(result, name) for name in names if hasattr(result, name))


def structured(result):
    return field(result, "structuredContent", "structured_content")


def failed(result):
    return field(result, "isError", "is_error")


async def use(session, transport):
    await session.initialize()
    tools = {tool.name: tool for tool in (await session.list_tools()).tools}
    check(set(tools) == {"search", "ask", "list", "read"}, tools)
    for tool in tools.values():
        schema = field(tool, "outputSchema", "output_schema")
        check(schema and schema["type"] == "object", transport, tool)

    listed = structured(await session.call_tool("list", {}))
    check(collection in [entry["name"] for entry in listed["collections"]], transport, listed)
    listed = structured(await session.call_tool("list", {"collection": collection}))
    check(listed["documents"][0]["tokens"] > 0, listed)

    found = structured(await session.call_tool("search", {"collection": collection, "query": "harbour founded"}))
    passage = found["passages"][0]
    check("1742" in passage["text"], found)
    place = {key: passage[key] for key in ("document", "start", "end")}
    read = structured(await session.call_tool("read", {"collection": collection, **place}))
    check(read["text"] == passage["text"], read, passage)

    steps = []

    async def progress(done, total, message):
        steps.append((done, message))

    asked = {"collection": collection, "question": "When was the harbour of Westmar founded?", "max_output_tokens": 40}
    answer = await session.call_tool("ask", asked, progress_callback=progress)
    told = structured(answer)
    check("1742" in told["answer"] and not failed(answer), told)
    check(told["citations"] and told["citations"][0]["quote"], told)
    check(told["input_tokens"] > 50 and told["output_tokens"] > 0, told)
    check(steps and "route" in steps[0][1] and [s[0] for s in steps] == sorted({s[0] for s in steps}), steps)

    wrong = await session.call_tool("ask", {"collection": "nowhere", "question": "x"})
    check(failed(wrong) and "no collection" in wrong.content[0].text, wrong)


async def main():
    async with streamable_http_client(f"{url}/mcp") as streams:
        async with ClientSession(streams[0], streams[1]) as session:
            await use(session, "http")
    # Once with the server that is running, once without.
    for extra in ([], ["--local"]):
        server = StdioServerParameters(command=command[0], args=[*command[1:], *extra], env=dict(os.environ))
        async with stdio_client(server) as (incoming, outgoing):
            async with ClientSession(incoming, outgoing) as session:
                await use(session, "stdio")


asyncio.run(main())
print(f"passed {checks} checks")
