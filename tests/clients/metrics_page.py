"""Reads a metrics page on standard input with the parser of prometheus-client, and prints the
series as JSON: a list of [name, labels, value]. A family or a series that is there twice is an
error, as is what the parser does not read."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

families = list(text_string_to_metric_families(sys.stdin.read()))
names = [family.name for family in families]
assert len(names) == len(set(names)), "a family is there twice"
assert all(family.type in ("counter", "gauge", "histogram") for family in families), "no type"
series = [(sample.name, sample.labels, sample.value) for f in families for sample in f.samples]
keys = [(name, *sorted(labels.items())) for name, labels, _ in series]
assert len(keys) == len(set(keys)), "a series is there twice"
json.dump(series, sys.stdout)
