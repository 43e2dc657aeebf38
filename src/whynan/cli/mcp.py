"""`whynan mcp`: the server for editors and coding agents, on standard input and output."""

import click

from whynan.errors import UsageError


@click.command("mcp")
def mcp() -> None:
    """Serve run, data, report and explain to an editor or a coding agent (Model Context Protocol, standard streams).

    \b
    In the client's configuration:
      {"mcpServers": {"whynan": {"command": "whynan", "args": ["mcp"]}}}

    The tool `run` starts the script that it is given, and writes the report's folder; everything else only reads.
    """
    from whynan.mcp_server import make_server

    try:
        server = make_server()
    except UsageError as error:
        raise click.ClickException(str(error)) from error
    server.run(transport="stdio")
