"""What a run leaves behind: its folder, its claims, and the page that shows them.

    run_folder    `RunDir`, `open_or_create`: the folder of a run and the files in it
    config_json   configs as JSON and back, exactly
    claims_table  the claims of all finished runs, the newest of each question; sums by kind
    numbers       numbers as text, with the digits that a verdict hangs on
    html, curves, style   `report.html`: one page with claims, curves and figures
    sealed        a prediction written down before its run, and proof that it was

`from library import report` gives the names of `run_folder`; claims are made by `library.claims`.
"""

from library.claims import Claim, Result
from library.report.run_folder import CONFIG, HTML, RESULT, VERSIONS, RunDir, open_or_create

__all__ = ["CONFIG", "HTML", "RESULT", "VERSIONS", "Claim", "Result", "RunDir", "open_or_create"]
