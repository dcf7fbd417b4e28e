"""`python -m outrider_registry`."""

from outrider_registry.app import service


def main() -> None:
    """Run the service."""
    service.main()


if __name__ == "__main__":
    main()
