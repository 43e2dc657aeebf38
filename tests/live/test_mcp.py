"""The MCP server as a client sees it, over standard streams, with the official SDK."""

import asyncio
import sys

from tests.live.conftest import FAILING


def test_client_runs_a_script_and_reads_the_diagnosis(tmp_path):
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    (tmp_path / "train.py").write_text(FAILING)

    def text(result):
        return "".join(part.text for part in result.content)

    async def talk():
        parameters = StdioServerParameters(command=sys.executable, args=["-m", "whynan", "mcp"], cwd=str(tmp_path))
        async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            ran = text(await session.call_tool("run", {"script": "train.py", "directory": str(tmp_path), "budget": 5}))
            saved = text(await session.call_tool("report", {"directory": str(tmp_path / "whynan-out")}))
            missing = text(await session.call_tool("report", {"directory": str(tmp_path / "nowhere")}))
            explained = text(await session.call_tool("explain", {"slug": "log-of-zero"}))
            (tmp_path / "empty").mkdir()
            checked = text(await session.call_tool("data", {"path": str(tmp_path / "empty")}))
            return tools, ran, saved, missing, explained, checked

    tools, ran, saved, missing, explained, checked = asyncio.run(asyncio.wait_for(talk(), 200))
    assert set(tools) == {"run", "data", "report", "explain"}
    assert all(len(tool.description) > 60 for tool in tools.values())
    reads = {name: tool.model_dump(by_alias=True)["annotations"]["readOnlyHint"] for name, tool in tools.items()}
    assert reads == {"run": False, "data": True, "report": True, "explain": True}
    assert "train.py:7" in ran
    assert "Exit status 3" in ran
    assert "step 3" in ran
    assert ran.startswith(saved[:200])
    assert "there is no" in missing
    assert "logarithm of an exact 0" in explained
    assert checked.strip()


def test_without_the_sdk_the_command_says_what_to_install(monkeypatch):
    from click.testing import CliRunner

    from whynan.cli.main import mcp

    for name in ("mcp.server.mcpserver", "mcp.server.fastmcp"):
        monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(mcp)
    assert done.exit_code == 1
    assert "whynan[mcp]" in done.output
