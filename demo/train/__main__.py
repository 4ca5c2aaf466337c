"""The commands of the training: render, fit, ship, publish. See README.md in this folder."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.train import weights as stored
from demo.train.layout import SIDE, load
from demo.train.renders import render_set
from demo.train.ship import Clock, ship
from engines.architectures import architecture_of, seeded_weights
from engines.preprocess import Preprocessing, normalised

LOG = logging.getLogger("demo.train")
INDEX_S, EVAL_S = 60.0, 60.0
FAMILIES = ("resnet18", "vit_tiny16")


def main() -> None:
    """Parse and run one command."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    options = _parser().parse_args()
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__)
    commands = parser.add_subparsers(required=True)
    render = commands.add_parser("render", help="render the training and evaluation sets")
    render.add_argument("--skus", type=int, default=800)
    render.add_argument("--first", type=int, default=0, help="leave out the training SKUs before this one")
    render.add_argument("--eval-skus", type=int, default=120, help="0 renders no evaluation set")
    render.add_argument("--seconds", type=float, default=200.0, help="stop handing out SKUs after this")
    render.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    render.set_defaults(run=_render)
    fit = commands.add_parser("fit", help="train one family, then ship it (needs torch)")
    fit.add_argument("--minutes", type=float, default=8.0, help="training time when --until is not given")
    fit.add_argument("--until", type=float, help="train until this wall-clock time (seconds since 1970)")
    fit.add_argument("--init", type=Path, help="begin with these weights (.npz)")
    fit.add_argument("--groups", type=int, help="groups a batch (dry runs)")
    fit.add_argument("--rate", type=float, default=1.0, help="factor on the recipe's learning rate")
    fit.add_argument("--compile-s", type=float, default=0.0, help="most seconds for compiling; 0: do not")
    fit.add_argument("--weights-only", action="store_true", help="end with the weights; ship them elsewhere")
    fit.set_defaults(run=_fit)
    again = commands.add_parser("ship", help="export and measure weights without torch")
    again.add_argument("--weights", type=Path, help=".npz; random weights without it (dry runs)")
    again.set_defaults(run=_ship)
    replan = commands.add_parser("replan", help="the shipped engines under today's placement of Q/DQ pairs, unsigned")
    replan.set_defaults(run=_replan)
    for command in (render, fit, again, replan):
        command.add_argument("--data", type=Path, required=True)
    for command in (fit, again):
        command.add_argument("--family", required=True, choices=FAMILIES)
        command.add_argument("--finish", type=float, help="end the measurements at this wall-clock time")
    for command in (fit, again, replan):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    publish = commands.add_parser("publish", help="sign engines with a fresh key and lay them into a models folder")
    publish.add_argument("--source", type=Path, required=True)
    publish.add_argument("--to", type=Path, required=True)
    publish.set_defaults(run=_publish)
    return parser


def _render(options: Any) -> None:
    render_set(options.data, "train", range(options.first, options.skus), options.seconds, options.workers)
    if options.eval_skus:
        render_set(options.data, "eval", range(options.eval_skus), EVAL_S, options.workers)


def _fit(options: Any) -> None:
    import torch

    from demo.train.fit import fit, recipe_of
    from demo.train.models import load_weights, module_of, weights_of

    torch.manual_seed(1)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    architecture = architecture_of(options.family, SIDE)
    module = module_of(architecture)
    if options.init:
        load_weights(module, stored.load(options.init))
    torch.set_float32_matmul_precision("high")
    _await_index(options.data)
    until = options.until or time.time() + 60 * options.minutes
    checkpoint = options.data / f"{options.family}.checkpoint"
    recipe = recipe_of(options.family, options.groups, options.rate, options.compile_s)
    run = fit(module, options.data, recipe, until, checkpoint, device)
    LOG.info("trained: %s", run)
    path = options.out / f"{options.family}.weights.npz"
    stored.save(path, weights_of(module))
    if options.weights_only:
        return
    # what is exported is what the file holds, so that anyone can export it again into the same embedding space
    weights = stored.load(path)
    load_weights(module, weights)
    module.eval()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    train, test = load(options.data, "train"), load(options.data, "eval")
    exact = _torch_embed(module, device)
    _log_agreement(architecture, weights, exact, np.ascontiguousarray(test.pixels[test.groups[:4], 0]))
    report = ship(architecture, weights, train, test, exact, options.out, _clock(options))
    _told(options, {**report, **{f"run.{n}": v for n, v in run.items()}})


def _await_index(root: Path) -> None:
    """The renderer may have been started a moment ago: wait for its index, however empty."""
    end = time.time() + INDEX_S
    while not (root / "train.json").exists() and time.time() < end:
        time.sleep(0.2)


def _torch_embed(module: Any, device: Any) -> Any:
    import torch

    from demo.train.augment import normalised as on_device

    def embed(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            embedding, patches = module(on_device(torch.from_numpy(pixels).to(device)))
        return embedding.cpu().numpy(), patches.cpu().numpy()

    return embed


def _graph_embed(architecture: Any, weights: Any, threads: int) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    graph = architecture.build(weights).SerializeToString()
    session = onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])

    def embed(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        images = normalised(pixels, Preprocessing(size=architecture.image_size))
        embedding, patches = session.run(["embedding", "patches"], {"images": images})
        return embedding, patches

    return embed


def _log_agreement(architecture: Any, weights: Any, exact: Any, pixels: NDArray[np.uint8]) -> None:
    """The trained module and the hand-written graph must be the same function."""
    left, right = exact(pixels), _graph_embed(architecture, weights, 4)(pixels)
    cosines = [float((a * b).sum(-1).min()) for a, b in zip(left, right, strict=True)]
    LOG.info("module and graph agree: embedding cosine %.6f, patches %.6f (least)", *cosines)


def _ship(options: Any) -> None:
    architecture = architecture_of(options.family, SIDE)
    weights = stored.load(options.weights) if options.weights else seeded_weights(architecture, 1)
    exact = _graph_embed(architecture, weights, options.threads)
    train, test = load(options.data, "train"), load(options.data, "eval")
    _told(options, ship(architecture, weights, train, test, exact, options.out, _clock(options)))


def _clock(options: Any) -> Clock:
    return Clock(finish=options.finish or time.time() + 3600, threads=options.threads)


def _told(options: Any, report: dict[str, float]) -> None:
    LOG.info("report of %s:\n%s", options.family, json.dumps(report, indent=1, sort_keys=True))


def _replan(options: Any) -> None:
    from demo.train.replan import measured, replanned
    from engines.catalogue import MODELS_DIR, read_engine, shipped_keys
    from engines.export import write_unsigned

    test = load(options.data, "eval")
    for name in FAMILIES:
        made = measured(replanned(read_engine(MODELS_DIR, name, shipped_keys())), test, options.threads)
        write_unsigned(made, options.out)
        LOG.info("%s: %s", name, made.manifest.onnx_sha256)


def _publish(options: Any) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from demo.train.publish import publish_all

    # the demo's key is made here and forgotten: whoever trains anew publishes all engines anew
    for manifest in publish_all(options.source, options.to, Ed25519PrivateKey.generate()):
        LOG.info("published %s %s, key %s", manifest.name, manifest.onnx_sha256, manifest.key_id)


if __name__ == "__main__":
    main()
