"""`python -m outrider_trips`."""

from outrider_trips.app import service


def main() -> None:
    """Run the service."""
    service.main()


if __name__ == "__main__":
    main()
