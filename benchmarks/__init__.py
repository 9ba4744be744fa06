"""What altsync reaches, measured side by side with what it is compared with."""
