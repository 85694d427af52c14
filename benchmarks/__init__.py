"""Speed of fastconv beside other ways to convolve and pool on a CPU from Python.

    python -m pytest benchmarks                                   every layer and pool, one thread
    python -m pytest benchmarks --threads 2 --layer vgg_conv3_2   one layer, two threads
    python -m pytest benchmarks --dtype float64 -k test_deconv    one kind of call, in float64
    python -m pytest benchmarks --benchmark-json out.json         all the timings, and the ratios

layers.py      the layers, of convolution, deconvolution and pools
peers.py       who is timed, on what data, and how their results are judged
numpy_path.py  the best pure-NumPy convolution and pools that we know
race.py        the timing
peak.py        what a core can multiply and add, in C (peak.c)
report.py      the tables of ratios
conftest.py    the options, and the wiring into pytest-benchmark
"""
