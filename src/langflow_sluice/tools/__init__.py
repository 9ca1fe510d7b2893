"""Tools that agents call, behind guards."""
