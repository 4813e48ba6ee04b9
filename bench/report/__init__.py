"""Tables and plots of the results, and the pages that show them."""
