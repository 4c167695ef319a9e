"""Print the table of cases: `python -m tests.field`."""

from rich.console import Console
from rich.table import Table

from tests.field.case import case_files, read_case


def main() -> None:
    """Print one row a case."""
    table = Table("case", "expected", "kind", "first seen")
    for file in case_files():
        case = read_case(file)
        table.add_row(file.stem, case.says, case.kind, case.seen)
    Console().print(table)


if __name__ == "__main__":
    main()
