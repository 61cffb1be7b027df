"""Write the findings of the present metrics down: ``python -m xaibench.benchmark.audit``."""

from xaibench.benchmark.audit.run import FINDINGS, audit, to_json

if __name__ == "__main__":
    FINDINGS.write_text(to_json(audit()), encoding="utf-8")
