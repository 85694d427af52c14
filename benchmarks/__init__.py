"""Speed of fastconv beside other ways to convolve and pool on a CPU from Python.

    python -m pytest benchmarks                                   every layer and pool, one thread
    python -m pytest benchmarks --threads 2 --layer vgg_conv3_2   one layer, two threads
    python -m pytest benchmarks --benchmark-json out.json         all the timings, and the ratios

layers.py      the layers and the pools
peers.py       who is timed, on what data, and how their results are judged
numpy_path.py  the best pure-NumPy convolution and pools that we know
race.py        the timing
report.py      the tables of ratios
conftest.py    the options, and the wiring into pytest-benchmark
"""
