"""An enterprise's CRM tables: reading and checking them, and the features built from them."""
