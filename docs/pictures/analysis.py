"""Draws the pictures of docs/analysis.md: `python docs/pictures/analysis.py FOLDER` runs the page's commands in FOLDER.

Runs that FOLDER holds already are not trained again. Of several commands of one kind the first is drawn.
"""

import os
import pathlib
import re
import shlex
import sys

from cupynn import cli
from cupynn.cli.analyse_kinds import KINDS
from cupynn.pictures import save_picture

here = pathlib.Path(__file__).resolve().parent
commands = re.findall(r"^cupynn (.*)$", (here.parent / "analysis.md").read_text(), re.M)
os.chdir(sys.argv[1])
drawn = set()
for command in commands:
    words = shlex.split(command)
    arguments = cli.parser().parse_args(words)
    if words[0] == "train":
        if not pathlib.Path(arguments.folder).exists():
            cli.main(words)
    elif arguments.kind not in drawn:
        drawn.add(arguments.kind)
        found = KINDS[arguments.kind].find(arguments)
        for dark in (False, True):
            path = here / f"analysis-{arguments.kind}{'-dark' if dark else ''}.svg"
            save_picture(found.draw, path, found.size, dark)
