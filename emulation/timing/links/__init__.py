"""Three laws by which transfers share links: fair, booked, flows."""
