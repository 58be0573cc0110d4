"""``python -m benchmarks COMMAND``: every table of the README and the documentation."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autotune.budget import as_budget
from benchmarks import fetch, host, models_command, report
from benchmarks.pages import write_pages
from benchmarks.paper import command as paper
from benchmarks.problems import data_folder, paper_problems
from sparse_triton.device import Device, environment

RESULTS = Path(__file__).parent / "results"


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    args.command(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True)
    spmm = commands.add_parser("spmm", help="the 20 SpMM problems of the SparseRT paper")
    spmm.add_argument("--data", help="folder of problems.json (default: $SPARSE_TRITON_DATA)")
    spmm.add_argument("--batch", default="1,32", help="batch sizes, N is multiplied by them")
    spmm.add_argument("--sparsity", default="0.9,0.95")
    spmm.add_argument("--device", choices=("cuda", "cpu"), default=_here())
    spmm.add_argument("--no-csr", action="store_true", help="leave out torch CSR, which is slow")
    spmm.add_argument(
        "--max-autotune", action="store_true", help="also what torch.compile finds by searching"
    )
    spmm.add_argument("--trials", type=int, metavar="N", help="search N configurations first")
    spmm.add_argument("--compile-timeout", type=float, default=60.0, metavar="SECONDS")
    _outputs(spmm)
    spmm.set_defaults(command=_spmm)
    sweep = commands.add_parser("sparsity", help="two shapes from 50 to 98 %% zeros, crossovers")
    _outputs(sweep)
    sweep.set_defaults(command=_sparsity)
    tuned = commands.add_parser("tuned", help="tuned against heuristic on the same problems")
    tuned.add_argument("--data", help="folder of problems.json (default: $SPARSE_TRITON_DATA)")
    tuned.add_argument("--sparsity", default="0.9,0.95")
    tuned.add_argument("--budget", default="quick", choices=("quick", "full", "exhaustive"))
    tuned.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    tuned.set_defaults(command=_tuned)
    models_command.arguments(commands.add_parser("models", help="whole pruned networks end to end"))
    decode = commands.add_parser("decode", help="pruned LLM layers, few tokens, 16 bits")
    decode.add_argument("--shapes", help="MxK,... (default: five of LLMs)")
    decode.add_argument("--sparsity", help="0.5,... (default: 0.5 to 0.9)")
    decode.add_argument("--columns", help="N: 1,2,... (default: 1 to 32)")
    _outputs(decode)
    decode.set_defaults(command=_decode)
    conv_cpu = commands.add_parser("conv-cpu", help="convolutions on this machine's CPU")
    _outputs(conv_cpu)
    conv_cpu.set_defaults(command=_conv_cpu)
    blocks = commands.add_parser("llama", help="a stack of Llama-style blocks at decode time")
    blocks.add_argument("--layers", type=int, default=4)
    blocks.add_argument("--sparsity", help="0.5,... (default: 0.5, 0.7, 0.9)")
    blocks.add_argument("--tokens", help="sequences: 1,8,... (default: 1, 8, 16)")
    blocks.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    blocks.set_defaults(command=_llama)
    calls = commands.add_parser("host", help="host time of one eager call")
    _outputs(calls)
    calls.set_defaults(command=_host)
    lines = commands.add_parser("fetch", help="what a GPU takes to fetch code, cycles a line")
    lines.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    lines.set_defaults(command=_fetch)
    paper.arguments(
        commands.add_parser("paper", help="the literature's results beside the published figures"),
        RESULTS,
    )
    for name, help_ in (
        ("conv", "convolutions of ResNet-50 and VGG-19"),
        ("convpool", "convolution, bias, ReLU and max pool of VGG-19 in one kernel"),
    ):
        convolutions = commands.add_parser(name, help=help_)
        convolutions.add_argument("--data", help="folder of problems.json")
        convolutions.add_argument("--batch", default="1,32", help="batch sizes")
        convolutions.add_argument("--sparsity", default="0.9,0.95")
        convolutions.add_argument("--network", default="", help="only layers whose name has this")
        convolutions.add_argument("--tune", choices=("quick", "full"), help="search first")
        _outputs(convolutions)
        convolutions.set_defaults(command=_conv, benchmark=name)
    readme = commands.add_parser(
        "readme", help="write the tables of README and docs from results/*.json"
    )
    readme.add_argument("--root", type=Path, default=RESULTS.parents[1], help="of the repository")
    readme.set_defaults(command=_readme)
    return parser


def _outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the results there")


def _here() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _spmm(args: argparse.Namespace) -> None:
    if args.device == "cpu":
        _spmm_cpu(args)
        return
    from benchmarks import contest, pictures, spmm

    problems = paper_problems(data_folder(args.data), tuple(args.sparsity.split(",")))
    batches = tuple(int(b) for b in args.batch.split(","))
    cases = [contest.Case(p, batch) for p in problems for batch in batches]
    options = contest.Options(csr=not args.no_csr, max_autotune=args.max_autotune)
    if args.trials:
        quick = replace(as_budget("quick", compile_s=args.compile_timeout), trials=args.trials)
        spmm.tune(cases, quick)
    facts = environment(Device.of(torch.device("cuda")))
    known = report.known_rows(args.json, facts)
    others = [r for r in known if r["batch"] not in batches]
    keep = _keep(args, "spmm", facts)
    rows = others + spmm.measure(cases, options, lambda mine: keep(others + mine))
    if args.png:
        pictures.problems(rows, facts, args.png)
    print(report.details(rows), report.summary(rows), sep="\n\n")


def _sparsity(args: argparse.Namespace) -> None:
    from benchmarks import pictures, sparsity

    rows = sparsity.run()
    crossovers = sparsity.crossovers(rows)
    facts = environment(Device.of(torch.device("cuda")))
    if args.png:
        pictures.sparsity_sweep(rows, crossovers, facts, args.png)
    result = {"benchmark": "sparsity", "environment": facts, "crossovers": crossovers}
    _finish(args, {**result, "rows": rows})
    print(sparsity.table(rows))


def _conv_cpu(args: argparse.Namespace) -> None:
    from benchmarks import cpu_conv

    rows = cpu_conv.run()
    facts = environment(Device.of(torch.device("cpu")))
    _finish(args, {"benchmark": "conv_cpu", "environment": facts, "rows": rows})
    print(cpu_conv.table(rows))


def _spmm_cpu(args: argparse.Namespace) -> None:
    from benchmarks import cpu_spmm

    rows = cpu_spmm.run()
    facts = environment(Device.of(torch.device("cpu")))
    _finish(args, {"benchmark": "spmm_cpu", "environment": facts, "rows": rows})
    print(cpu_spmm.table(rows))


def _conv(args: argparse.Namespace) -> None:
    from benchmarks import conv, conv_problems, conv_report

    batches = tuple(int(b) for b in args.batch.split(","))
    sparsities = tuple(args.sparsity.split(","))
    if args.benchmark == "conv":
        layers = conv_problems.conv_layers(data_folder(args.data), sparsities, batches)
    else:
        layers = conv_problems.pool_layers(sparsities, batches)
    facts = environment(Device.of(torch.device("cuda")))
    mine = (layer for layer in layers if args.network in layer.name)
    rows = conv.run(mine, args.tune, _keep(args, args.benchmark, facts))
    if args.png:
        title = {"conv": "Convolution", "convpool": "Convolution, bias, ReLU, max pool"}
        conv_report.plot(
            rows, f"{title[args.benchmark]}, speed-up over cuDNN fp32 — {facts['device']}", args.png
        )
    print(conv_report.details(rows), conv_report.summary(rows), sep="\n\n")


def _tuned(args: argparse.Namespace) -> None:
    from benchmarks import tuned

    rows = tuned.run(data_folder(args.data), tuple(args.sparsity.split(",")), args.budget)
    facts = environment(Device.of(torch.device(_here())))
    _finish(args, {"benchmark": "tuned", "environment": facts, "rows": rows})
    print(tuned.table(rows))


def _decode(args: argparse.Namespace) -> None:
    from benchmarks import decode, decode_report

    shapes: Any = decode.SHAPES
    if args.shapes:
        shapes = [tuple(int(n) for n in s.split("x")) for s in args.shapes.split(",")]
    sparsities = _numbers(args.sparsity, float) or decode.SPARSITIES
    facts = environment(Device.of(torch.device("cuda")))
    rows: list[dict[str, Any]] = []
    for some in decode.run(shapes, sparsities, _numbers(args.columns, int) or decode.COLUMNS):
        rows += some  # an interrupted run keeps what it has
        _finish(args, {"benchmark": "decode", "environment": facts, "rows": rows})
    if args.png:
        decode_report.plot(rows, facts, args.png)
    print(decode_report.details(rows), decode_report.summary(rows), sep="\n\n")


def _llama(args: argparse.Namespace) -> None:
    from benchmarks import llama

    device = torch.device("cuda")
    rows = llama.run(
        device,
        llama.Model(layers=args.layers),
        _numbers(args.sparsity, float) or llama.SPARSITIES,
        _numbers(args.tokens, int) or llama.TOKENS,
    )
    facts = environment(Device.of(device))
    _finish(args, {"benchmark": "llama", "environment": facts, "rows": rows})
    print(llama.table(rows))


def _numbers(text: str | None, kind: Any) -> tuple[Any, ...]:
    return tuple(kind(n) for n in text.split(",")) if text else ()


def _host(args: argparse.Namespace) -> None:
    device = torch.device(_here())
    us = host.run(device)
    _finish(args, {"benchmark": "host", "environment": environment(Device.of(device)), "us": us})
    print(host.table(us))


def _fetch(args: argparse.Namespace) -> None:
    device = torch.device("cuda")
    rows = fetch.run(device)
    facts = environment(Device.of(device))
    _finish(args, {"benchmark": "fetch", "environment": facts, "rows": rows})
    print(fetch.table(rows))


def _keep(
    args: argparse.Namespace, benchmark: str, facts: dict[str, str]
) -> Callable[[list[dict[str, Any]]], None]:
    """Writes the rows so far, for benchmarks that take minutes."""
    return lambda rows: _finish(args, {"benchmark": benchmark, "environment": facts, "rows": rows})


def _finish(args: argparse.Namespace, result: dict[str, Any]) -> None:
    if args.json:
        report.write(args.json, result)


def _readme(args: argparse.Namespace) -> None:
    for path in write_pages(args.root):
        print(path)


if __name__ == "__main__":
    main()
