"""Measure one case, given as JSON, and print the result as JSON. `measure.run` starts this in a separate process."""

import json
import sys

from longrecipe.cost.cases import Case
from longrecipe.cost.measure import measure
from longrecipe.settings.memory import Setup

if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    found = measure(Case(**settings | {"setup": Setup(**settings["setup"])}))
    sys.stdout.write(json.dumps(found) + "\n")
