"""`python -m outrider_lifecycle`."""

from outrider_lifecycle.app import service


def main() -> None:
    """Run the service."""
    service.main()


if __name__ == "__main__":
    main()
