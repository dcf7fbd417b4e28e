"""`python -m outrider_writer_logs`."""

from outrider_writer_logs.app import service


def main() -> None:
    """Run the service."""
    service.main()


if __name__ == "__main__":
    main()
