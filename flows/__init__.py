"""Prefect above DVC: brings a study up to date in parallel, from a web page or on a schedule. No arithmetic.

Imports point down this list only: serve; deployments; nightly; study; cluster, workers, elsewhere (stages beyond this
machine); runner; difference, remote, pages; workspace; stage; resources; graph, parameters.
"""

import os

#: Set before Prefect or DVC is imported: nothing is reported to anyone, and code outside of a flow run logs in peace.
QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)
