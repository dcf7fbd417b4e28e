"""`python -m outrider_ingest`."""

from outrider_ingest.app import service


def main() -> None:
    """Run the service."""
    service.main()


if __name__ == "__main__":
    main()
