"""Exact discrete Gaussian noise by OpenDP; its interpreter is not ours.

``noise.py`` runs this with the interpreter that KUMIAI_OPENDP_PYTHON names. Prints one line of
JSON: CPU seconds for a million numbers, from so many as take some seconds.
"""

import json
import sys
import time

import opendp.prelude as dp

dp.enable_features("contrib", "idealized-numerics")


def main() -> None:
    scale, count = float(sys.argv[1]), int(sys.argv[2])
    space = dp.vector_domain(dp.atom_domain(T="i64"), size=count), dp.l2_distance(T=float)
    mechanism = dp.m.make_gaussian(*space, scale=scale)
    values = [0] * count
    began = time.process_time()
    mechanism(values)
    print(json.dumps(1e6 * (time.process_time() - began) / count))


if __name__ == "__main__":
    main()
