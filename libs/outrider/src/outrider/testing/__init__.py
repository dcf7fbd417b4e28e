"""What other packages' tests import: real servers as fixtures, services in process, one behaviour suite for every consumer."""
