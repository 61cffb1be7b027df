"""Measure a SegDiff configuration on a device: training throughput, model FLOP utilisation, peak memory, inference time per clip.

``python -m xaibench.explainers.segdiff.measure --config small`` prints JSON; ``gpu.sh`` beside this file runs it for every configuration.
Times are of the wall on a GPU and of the processor on a CPU, which other programs on the machine hardly change.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from xaibench.explainers.segdiff.data import Batch
from xaibench.explainers.segdiff.network import SegDiffNetwork, parameters
from xaibench.explainers.segdiff.objective import Objective, draw, known_cells
from xaibench.explainers.segdiff.sampling import Sampling, posterior
from xaibench.explainers.segdiff.training import TrainingConfig
from xaibench.explainers.segdiff.weights import ModelConfig, preset
from xaibench.types import CLIP_SAMPLES

PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Dense bf16 operations per second by the vendors' data sheets, by a part of the device's name."""
PAPER = Sampling(steps=100, samples=32, sampler="ancestral", first_share=0.0)


def measure(config: str, device: str = "cpu", precision: str = "float32", batch_size: int = 4, repeats: int = 5) -> dict[str, Any]:
    """Return everything measured of one configuration, with random weights and inputs of a clip's size.

    Args:
        config: A name of ``network.CONFIGS``.
        device: ``cpu``, ``cuda``, ...
        precision: ``float32`` or ``bf16``.
        batch_size: Clips of a training step and of batched inference.
        repeats: Timed repetitions, after one that is not timed.
    """
    torch.manual_seed(0)
    model = preset("specsegdiff", config)
    network = model.build().to(device)
    image = _image(model, batch_size, device)
    trained = _training(network, model, image, device, precision, repeats)
    network.eval()
    return {
        "config": config,
        "device": _name(device),
        "precision": precision,
        "batch_size": batch_size,
        "torch": torch.__version__.split("+")[0],
        "date": time.strftime("%Y-%m-%d"),
        "parameters": parameters(network),
        **trained,
        **_inference(network, model, image, device, precision, repeats),
    }


def _training(network: SegDiffNetwork, model: ModelConfig, image: Tensor, device: str, precision: str, repeats: int) -> dict[str, Any]:
    config = TrainingConfig(model=model, batch_size=len(image), precision=precision)
    mask = (torch.rand(len(image), len(model.recipes), *image.shape[-2:], device=device) > 0.95).float()
    batch = Batch(image, mask, torch.ones(len(image), mask.shape[1], 1, mask.shape[-1], device=device))
    objective = Objective(network, config)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    drawn = draw(config, 0, list(range(len(image))), tuple(mask.shape[1:]))
    drawn = drawn._replace(times=drawn.times.to(device), noise=drawn.noise.to(device))

    def step() -> None:
        with _autocast(device, precision):
            value = objective(batch, drawn, None, known_cells(batch))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops()
    seconds = _timed(step, device, repeats)
    peak = next((value for part, value in PEAK_BF16.items() if part in _name(device)), None)
    return {
        "train_clips_per_s": len(image) / seconds,
        "train_tflop_per_clip": flops / len(image) / 1e12,
        "train_flop_utilisation": flops / seconds / peak if peak else None,
        "train_peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else None,
    }


def _inference(network: SegDiffNetwork, model: ModelConfig, image: Tensor, device: str, precision: str, repeats: int) -> dict[str, Any]:
    def explain(sampling: Sampling, count: int) -> None:
        generators = [torch.Generator().manual_seed(i) for i in range(count)]
        with _autocast(device, precision):
            posterior(network, model, image[:count], generators, sampling)

    return {
        "explain_s_per_clip": _timed(lambda: explain(Sampling(), 1), device, repeats),
        "explain_s_per_clip_in_batches": _timed(lambda: explain(Sampling(), len(image)), device, repeats) / len(image),
    }


@torch.no_grad()
def against_the_paper(network: SegDiffNetwork, model: ModelConfig, image: Tensor, steps: int = PAPER.steps) -> dict[str, float]:
    """Time one clip by the default sampling and by the paper's: 100 steps x 32 samples, G(I) computed again for every sample and step.

    Args:
        network: In ``eval()`` mode.
        model: Its configuration.
        image: One clip, (1, C, F, N).
        steps: Steps of the paper's that are really made; fewer are scaled up to 100, since all cost the same.
    """
    fast = _timed(lambda: posterior(network, model, image, [torch.Generator().manual_seed(0)], Sampling()), str(image.device), 1)
    crowd = image.expand(PAPER.samples, -1, -1, -1)
    state = torch.randn(PAPER.samples, model.network.mask_channels, *image.shape[-2:], device=image.device)
    at = torch.full((PAPER.samples,), model.diffusion.steps // 2, device=image.device)

    def slow() -> None:
        for _ in range(steps):
            network(state, at, network.condition(crowd))

    slow_s = _timed(slow, str(image.device), 1, warm=False) * PAPER.steps / steps
    return {"default_s": fast, "paper_s": slow_s, "times_faster": slow_s / fast}


def _image(model: ModelConfig, count: int, device: str) -> Tensor:
    clip = 0.1 * torch.randn(count, CLIP_SAMPLES, generator=torch.Generator().manual_seed(0))
    return model.front.image(clip.to(device), model.stft)


def _timed(call: Callable[[], object], device: str, repeats: int, *, warm: bool = True) -> float:
    """Return seconds per call."""
    cuda = device.startswith("cuda")
    if warm:
        call()
    if cuda:
        torch.cuda.synchronize()
    clock = time.perf_counter if cuda else time.process_time
    began = clock()
    for _ in range(repeats):
        call()
    if cuda:
        torch.cuda.synchronize()
    return (clock() - began) / repeats


def _autocast(device: str, precision: str) -> Any:
    return torch.autocast(torch.device(device).type, torch.bfloat16) if precision == "bf16" else nullcontext()


def _name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def main(arguments: list[str] | None = None) -> None:
    """Measure one configuration from the command line and append it to a file, or print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="JSON lines file to which the result is appended")
    options = parser.parse_args(arguments)
    found = measure(options.config, options.device, options.precision, options.batch_size, options.repeats)
    line = json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in found.items()}) + "\n"
    if options.out is None:
        import sys

        sys.stdout.write(line)
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a") as stream:
            stream.write(line)


if __name__ == "__main__":
    main()
