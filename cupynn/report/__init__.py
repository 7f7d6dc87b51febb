"""A training run as one page: what was trained and how, what came of it, the proof, and where the time goes.

    from cupynn.report import report

    report("runs/ck").save("report.html")

`findings.py` reads the run and measures what its files do not tell, `page.py` writes it down.
"""

from cupynn.report.page import report

__all__ = ["report"]
