"""`python -m outrider_gateway`."""

from outrider_gateway.app import service


def main() -> None:
    """Run the service."""
    service.main()


if __name__ == "__main__":
    main()
