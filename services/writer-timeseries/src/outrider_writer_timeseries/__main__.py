"""`python -m outrider_writer_timeseries`."""

from outrider_writer_timeseries.app import service


def main() -> None:
    """Run the service."""
    service.main()


if __name__ == "__main__":
    main()
