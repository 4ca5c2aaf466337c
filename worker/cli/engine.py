"""`assay engine`: the life of an engine. Mounts what the modules beside it do."""

from __future__ import annotations

import typer

from worker.cli import engine_make

engine_app = typer.Typer(no_args_is_help=True, help="Make, prove and publish the engines that encode photographs.")
engine_app.command("import")(engine_make.import_)
engine_app.command("quantize")(engine_make.quantize)
engine_app.command("evaluate")(engine_make.evaluate)
