"""Which GPUs are seen, from a driver that is pretended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lr_ray.placement.nvidia import Gpu, Seen, visible
from tests.nvml import Card, pretend

# The second is busy.
CARDS = (
    Card("GPU-aaaa-1", "NVIDIA H100", 85_000_000_000, 84_500_000_000, (9, 0)),
    Card("GPU-bbbb-2", "NVIDIA L4", 24_000_000_000, 20_000_000_000, (8, 9), (4242, 3_500_000_000)),
)
H100 = Gpu("NVIDIA H100", 85_000_000_000, 500_000_000, (9, 0), "580.65.06")
L4 = Gpu("NVIDIA L4", 24_000_000_000, 4_000_000_000, (8, 9), "580.65.06", ((4242, 3_500_000_000),))


def seen(env, *asked) -> list[Seen]:
    """What a new process sees for each value of CUDA_VISIBLE_DEVICES."""
    code = (
        "from lr_ray.placement.nvidia import *\n"
        f"print([look({{}} if one is None else {{'CUDA_VISIBLE_DEVICES': one}}) for one in {asked}])"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True)
    return eval(out.stdout, {"Seen": Seen, "Gpu": Gpu})


def test_cards_of_the_drivers_library_in_the_order_that_is_asked_for(tmp_path):
    assert seen(pretend(tmp_path, *CARDS), None, "1,0", "GPU-b", "") == [
        Seen((H100, L4), cuda=13),
        Seen((L4, H100), cuda=13),
        Seen((L4,), hidden=1, cuda=13),
        Seen((), hidden=2, cuda=13),
    ]


def test_of_a_split_card_the_slice_counts_whatever_names_it(tmp_path):
    split = Card(
        "GPU-cccc-3", "NVIDIA A100", 85_000_000_000, 85_000_000_000, (8, 0), slice=10_000_000_000
    )
    part = Gpu("NVIDIA A100", 10_000_000_000, 0, (8, 0), "580.65.06")
    assert seen(pretend(tmp_path, split, CARDS[1]), None, "0", "MIG-cccc-1") == [
        Seen((part, L4), cuda=13),
        Seen((part,), hidden=1, cuda=13),
        Seen((part,), cuda=13, unlisted=2),
    ]
    three = pretend(tmp_path, *CARDS, split)
    assert seen(three, "MIG-cccc-1") == [Seen((part,), cuda=13)]


@pytest.mark.parametrize(
    ("code", "trouble"), [(9, None), (18, "RM has detected an NVML/RM version mismatch.")]
)
def test_no_driver_is_no_gpu_and_a_driver_in_trouble_is_told(tmp_path, code, trouble):
    assert seen(pretend(tmp_path, *CARDS, init=code), None) == [Seen(trouble=trouble)]


@pytest.mark.parametrize(
    ("asked", "indices"),
    [
        (None, [0, 1, 2]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("", []),
        ("-1", []),
        ("0,3,1", [0]),
        ("1,1", [1]),
        ("GPU-b,GPU-a1", [2, 0]),
        ("GPU-a", []),  # two begin so
        ("NoDevFiles", []),
    ],
)
def test_visible_devices_are_read_as_cuda_does(asked, indices):
    assert visible(["GPU-a1", "GPU-a2", "GPU-b1"], asked) == indices


def test_this_machine_is_asked_without_torch_or_ray():
    code = "import sys; from lr_ray.doctor.facts import look; look(); print({'torch','ray','vllm'} & {*sys.modules})"
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert out.stdout == "set()\n"
