"""What a study left on disk, as an answer, a table and a page.

Everything here reads files; nothing loads torch. `records.read` opens a study folder, `table`
holds the numbers, and `page.write` draws the report. The page needs plotly and jinja2
(`flatminima[lab]`) and is therefore imported by name: `from flatminima.report import page`.
"""

from flatminima.report.records import Study, read
from flatminima.report.table import answer

__all__ = ["Study", "answer", "read"]
