"""Writes a checkpoint whose weights are the weighted mean of several of one training.

    python average.py OUT.pt 0.3 FIRST.pt 0.7 SECOND.pt
"""
import sys

import torch


def main(out, *pairs):
    weights = [float(weight) for weight in pairs[::2]]
    loaded = [torch.load(path, weights_only=False) for path in pairs[1::2]]
    mean = loaded[-1]
    for name, last in mean["net"].items():
        if last.is_floating_point():
            total = sum(weight * each["net"][name].float() for weight, each in zip(weights, loaded))
            mean["net"][name] = (total / sum(weights)).to(last.dtype)
    torch.save(mean, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
