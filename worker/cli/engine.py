"""`assay engine`: what takes an engine from files to service. Other modules hold the commands."""

from __future__ import annotations

import typer

from worker.cli import (
    engine_build,
    engine_drill,
    engine_embed,
    engine_make,
    engine_registry,
    engine_release,
    engine_traffic,
)

engine_app = typer.Typer(
    no_args_is_help=True, help="Make, prove and publish encoders' engines, and say which ones serve."
)
engine_app.command("import")(engine_make.import_)
engine_app.command("quantize")(engine_make.quantize)
engine_app.command("evaluate")(engine_make.evaluate)
engine_app.command("build")(engine_build.build)
engine_app.command("drill")(engine_drill.drill)
engine_registry.register(engine_app)
engine_traffic.register(engine_app)
engine_release.register(engine_app)
engine_app.command("embed")(engine_embed.embed)
