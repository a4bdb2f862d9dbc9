"""Every benchmark there is an exporter for, by name."""

from videopoet.evaluation.exporters.benchmark import Benchmark
from videopoet.evaluation.exporters.numbered import FETV, EvalCrafter, T2VCompBench
from videopoet.evaluation.exporters.vbench import VBench, VBenchI2V
from videopoet.evaluation.exporters.vbench2 import VBench2

BENCHMARKS: dict[str, type[Benchmark]] = {
    benchmark.name: benchmark for benchmark in (VBench, VBenchI2V, VBench2, EvalCrafter, FETV, T2VCompBench)
}
