from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
import torch
from conftest_build import lines_of, sums, write_lines
